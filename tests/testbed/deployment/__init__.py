"""What users run, for tests: the chart's operator and pipelines of it in a cluster whose nodes run pods.

`operator` installs the chart, `pipeline` asks the API server and the pods of a pipeline, `load` is its clients.
"""
