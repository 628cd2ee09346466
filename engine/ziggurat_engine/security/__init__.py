"""Who may do what, and who did? Nothing here knows gRPC; server/ puts it to use."""
