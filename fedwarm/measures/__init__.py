"""What is measured when training is done: parts with two halves (`fedwarm.parts`), all of which take part in every run.

A measure's stage has the measure's name and the owner `measure <name>`: its bytes are booked as measuring, apart from training's.
"""
