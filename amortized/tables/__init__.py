"""Preprocessing of tables for networks over cells, independent of any estimator.

It consists of the encoding of columns and classes (`encoding`, `class_labels`), the selection of
rows and columns (`sample_weights`, `screening`), the views over which predictions are averaged
(`views`, `readings`, `view_weights`), and the maps between targets or many classes and the outputs
of the network (`target_views`, `class_tree`).
"""
