//! The whole flow in one process: employee, operator, attested workload and a refused one.
//!
//! Must not touch: anything but the public faces of client, server and sandbox.
