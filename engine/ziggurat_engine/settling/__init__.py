"""When do dirty shards reach the store, and how?"""
