"""What people look at: one file a subject (`inspect`, `diff`), one file a way of showing (`terminal`, `markdown`).

A subject makes a `Document`; every way of showing renders any document. JSON is made by the subject itself,
since its field names are an interface.
"""
