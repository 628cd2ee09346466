"""Version 1 of the contract: image_pb2, write_pb2, read_pb2, service_pb2."""
