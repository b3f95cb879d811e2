"""What a site does on its own machine: check it before it joins, run its SuperNode, and ask whether that is still heard."""
