"""The tables of README and docs, by what they are about; `build_doc_tables.py` puts them into the pages."""
