//! Authorities, and what they certify, made with openssl.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::world::{make_dirs, run, write};

/// An authority with a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, PEM files.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

fn make_key(path: &Path) -> Result<()> {
    let path = path.display().to_string();
    let curve = [
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
    ];
    run("openssl", curve.into_iter().chain([path.as_str()]))?;
    Ok(())
}

impl Authority {
    /// Makes an authority of this name in a directory that is not there yet.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        make_dirs(dir)?;
        let authority = Self {
            dir: dir.to_owned(),
        };
        make_key(&authority.key())?;
        let (key, certificate) = (authority.key(), authority.certificate());
        run(
            "openssl",
            [
                "req",
                "-x509",
                "-days",
                "2",
                "-key",
                &key.display().to_string(),
                "-subj",
                &format!("/CN={name}"),
                "-out",
                &certificate.display().to_string(),
            ],
        )?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// Certifies 127.0.0.1 as a server, or whom this name names as a client.
    pub fn certify(&self, name: &str) -> Result<Certified> {
        let at = |end: &str| self.dir.join(format!("{name}.{end}"));
        let certified = Certified {
            certificate: at("cert"),
            key: at("key"),
        };
        make_key(&certified.key)?;
        let (request, extensions) = (at("request"), at("extensions"));
        let text = |path: &Path| path.display().to_string();
        run(
            "openssl",
            [
                "req",
                "-new",
                "-key",
                &text(&certified.key),
                "-subj",
                &format!("/CN={name}"),
                "-out",
                &text(&request),
            ],
        )?;
        write(
            &extensions,
            "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
        )?;
        run(
            "openssl",
            [
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &text(&request),
                "-CA",
                &text(&self.certificate()),
                "-CAkey",
                &text(&self.key()),
                "-CAcreateserial",
                "-extfile",
                &text(&extensions),
                "-out",
                &text(&certified.certificate),
            ],
        )?;
        Ok(certified)
    }
}
