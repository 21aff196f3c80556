"""The project's images, built by its Dockerfile without a Docker engine and without a registry.

`python -m testbed.images` builds them beside the tests that do not need them. Whoever needs one meanwhile waits
for that build.
"""
