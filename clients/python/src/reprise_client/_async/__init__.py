"""The client for asyncio. The blocking one in _sync is made from it by make_sync.py."""
