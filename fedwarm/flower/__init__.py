"""Where Flower begins: messages on the wire, the folder of an app, the processes of a SuperLink."""
