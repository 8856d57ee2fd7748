"""The blocking client. All but runtime.py is made from _async by make_sync.py: edit there."""
