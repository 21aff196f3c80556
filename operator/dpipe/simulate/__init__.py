"""`dpipe simulate`: the router's own core on virtual time, over a stated load, fleet and faults."""
