"""Tables as a network over cells reads them, apart from any estimator.

What belongs here: making numbers of a table's columns and checking its classes (`encoding`,
`class_labels`), choosing its rows and columns (`sample_weights`, `screening`), the views that the
network's answers are averaged over (`views`, `readings`, `view_weights`), and the maps between a
target or many classes and what the network answers (`target_views`, `class_tree`).
"""
