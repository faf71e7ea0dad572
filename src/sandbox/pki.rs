//! The certificates of the sandbox's issuer: a root, an intermediate for the purpose that Google's has, and a leaf.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};

use super::SandboxError;

/// tcg-kp-EKCertificate, which is what Google's intermediate certificate is for.
const PURPOSE: [u64; 5] = [2, 23, 133, 8, 1];

/// The chain that goes into headers, and its root.
pub(super) struct Certificates {
    chain: Vec<String>,
    root_pem: String,
}

impl Certificates {
    /// Certificates for the RSA key `pkcs8`.
    pub(super) fn new(pkcs8: &[u8]) -> Result<Self, SandboxError> {
        Self::try_new(pkcs8).map_err(|_| SandboxError::Key)
    }

    fn try_new(pkcs8: &[u8]) -> Result<Self, rcgen::Error> {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root_params = authority("Sandbox Root CA")?;
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);

        let intermediate_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut intermediate_params = authority("Sandbox Intermediate CA")?;
        intermediate_params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(PURPOSE.to_vec())];
        let intermediate = intermediate_params.signed_by(&intermediate_key, &root_issuer)?;
        let intermediate_issuer = Issuer::new(intermediate_params, intermediate_key);

        let leaf_key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_RSA_SHA256)?;
        let mut leaf_params = named("Sandbox Leaf Certificate")?;
        leaf_params.is_ca = IsCa::ExplicitNoCa;
        let leaf = leaf_params.signed_by(&leaf_key, &intermediate_issuer)?;

        let chain =
            [&leaf, &intermediate, &root].map(|certificate| BASE64_STANDARD.encode(certificate.der()));
        Ok(Self { chain: chain.to_vec(), root_pem: pem(root.der()) })
    }

    /// The signer's first, the root last, in base64.
    pub(super) fn chain(&self) -> &[String] {
        &self.chain
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }
}

fn named(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn authority(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named(name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// RFC 7468: 64 characters a line.
fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}
