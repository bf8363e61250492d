"""The arithmetic between forward and backward: what it means (`reference`)."""
