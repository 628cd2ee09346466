"""The engine over gRPC: wire formats, the table of errors, servicers without logic."""
