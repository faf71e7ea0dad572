//! The employee's side: session, transport, completion.
//!
//! Must not touch: engine, model, kernels.
