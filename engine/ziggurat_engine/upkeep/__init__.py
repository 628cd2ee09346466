"""Without a server: is a data directory whole, what of it can be mended, how is it copied?"""
