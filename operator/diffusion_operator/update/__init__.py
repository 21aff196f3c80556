"""When pods that run are made anew because the operator is another: only when that is asked for.

What an operator makes of a resource depends on its version and its flags (images first of all). So what a pipeline's
pods are made of is written down in a revision (`revision`), and a later operator goes on with it: an edit of the
resource is carried over to it (`carry`), and what this operator would make of it otherwise waits until the pipeline is
told to move (`decide`). Pure: no cluster, no clock.
"""
