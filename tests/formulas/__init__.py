"""Every ingredient beside its formula, written from scratch: tables of rows, and the test that goes through them."""
