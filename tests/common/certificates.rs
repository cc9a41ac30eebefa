//! Creates the identity of a server for tests over TLS.

use tokenwire::testing::TlsIdentity;

/// Returns a new certificate authority (PEM), and the identity of a local server signed by it.
pub fn certificates() -> (String, TlsIdentity) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let make = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        Ok((authority.pem(), leaf.pem(), key.serialize_pem()))
    };
    let (authority, leaf, key) = make().expect("certificates");
    (authority, TlsIdentity::from_pem(&leaf, &key).expect("a valid identity"))
}
