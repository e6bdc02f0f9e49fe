// Answers over HTTP/2 without TLS with the body it was sent, once it has all of it, and its SHA-256
// in the trailers. Argument: the port.
const http2 = require("http2");
const crypto = require("crypto");

const server = http2.createServer({ settings: { initialWindowSize: 100000 } });
server.on("stream", (stream) => {
  const chunks = [];
  stream.on("data", (chunk) => chunks.push(chunk));
  stream.on("error", () => {});
  stream.on("end", () => {
    const body = Buffer.concat(chunks);
    const digest = crypto.createHash("sha256").update(body).digest("hex");
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sha256": digest }));
    stream.respond({ ":status": 200, "x-peer": "node" }, { waitForTrailers: true });
    stream.end(body);
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
