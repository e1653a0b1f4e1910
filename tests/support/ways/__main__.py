"""`python -m tests.support.ways` writes the table anew."""

from tests.support.ways import write_table

write_table()
