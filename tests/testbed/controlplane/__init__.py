"""A real Kubernetes control plane on this machine, for tests.

The programs are built from their Go modules (`programs`), started as child processes (`cluster`) and spoken to by real
clients; KWOK plays the nodes and their pods. Between the operator under test and the API server a proxy can stand that
makes faults (`proxy`).
"""
