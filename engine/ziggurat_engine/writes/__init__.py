"""How does what clients send get in, once each, and when is it durable?"""
