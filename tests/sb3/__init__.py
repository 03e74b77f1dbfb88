"""The policies and algorithms against sb3-contrib itself."""
