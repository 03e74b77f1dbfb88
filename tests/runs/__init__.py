"""Run folders of all kinds: how runs begin, go on and end."""
