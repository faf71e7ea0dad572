//! Every fault of the key plane, and the recovery from it, through the server.
