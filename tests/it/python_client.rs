//! Google's sample client and google-cloud-kms against ours.
