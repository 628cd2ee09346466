"""The wire contract of Ziggurat; see v1/service.proto."""
