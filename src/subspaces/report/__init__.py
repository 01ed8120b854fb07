"""The frame of a page: template, style, tables, files of figures. `write.write_report` asks the wings for parts."""
