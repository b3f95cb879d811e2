"""A federation of Flower processes: SuperLink, SuperExec and SuperNodes, with keys and certificates."""
