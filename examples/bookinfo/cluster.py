"""The documents a Kubernetes cluster would have for bookinfo: what runs where, and the routing."""

from __future__ import annotations

from typing import NamedTuple


class Instance(NamedTuple):
    """One process of the demo."""

    app: str
    version: str
    number: int
    port: int

    @property
    def pod(self) -> str:
        return f"{self.app}-{self.version}-{self.number}"


def cluster_yaml(instances: list[Instance]) -> str:
    """Service, Pod and EndpointSlice documents, as ``kubectl get -o yaml`` would show them."""
    services = [_SERVICE.format(app=app) for app in sorted({i.app for i in instances})]
    pods = [_POD.format(**i._asdict(), pod=i.pod) for i in instances]
    return "---".join([*services, *pods])


def routing_yaml(v1: int, v3: int) -> str:
    """Istio's own bookinfo routing: one user on v2, everybody else split over v1 and v3."""
    return _ROUTING.format(v1=v1, v3=v3)


_SERVICE = """
apiVersion: v1
kind: Service
metadata:
  name: {app}
spec:
  selector:
    app: {app}
  ports:
  - name: http
    port: 9080
"""

_POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  labels:
    app: {app}
    version: {version}
status:
  podIP: 127.0.0.1
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {pod}
  labels:
    kubernetes.io/service-name: {app}
addressType: IPv4
ports:
- name: http
  port: {port}
endpoints:
- addresses: [127.0.0.1]
  conditions:
    ready: true
  targetRef:
    kind: Pod
    name: {pod}
"""

_ROUTING = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - match:
    - headers:
        end-user:
          exact: jason
    route:
    - destination:
        host: reviews
        subset: v2
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: {v1}
    - destination:
        host: reviews
        subset: v3
      weight: {v3}
    retries:
      attempts: 3
      retryOn: connect-failure,reset,503
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      simple: ROUND_ROBIN
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
  - name: v3
    labels:
      version: v3
"""
