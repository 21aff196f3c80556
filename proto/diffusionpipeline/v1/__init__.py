"""Generated protobuf and gRPC code shared by router, workers and clients."""
