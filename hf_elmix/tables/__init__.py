"""Classification of table rows: the paper's study of UCI data, for any folder of tables."""
