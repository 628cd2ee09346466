"""Does it work on this machine? A server, an image in, every level checked, an answer.

The server is a process of its own, and all that happens goes through the public client.
This package needs the extra `demo` (ziggurat-client with its extra `cli`).
"""
