"""A federation of Flower's processes on this machine: SuperLink, SuperExec and SuperNodes that stay until they are ended."""
