//! Logging in: SCRAM-SHA-256 (RFC 5802, RFC 7677) with a password, `MONGODB-X509` with the certificate of the TLS
//! connection. A password never leaves the agent.

use std::num::NonZeroU32;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    hmac, pbkdf2,
    rand::{SystemRandom, generate},
};
use bson::{Binary, Document, doc, spec::BinarySubtype};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::{Connection, ConnectionError, Failure};

/// What mongod is asked for at least; its own default is 15,000.
const FEWEST_ITERATIONS: u32 = 4096;
/// `AuthenticationFailed`.
const FAILED: i32 = 18;

/// Who the agent is to the database.
pub(crate) enum Login {
    /// A user of `admin`.
    Password {
        /// Its name.
        user: String,
        /// Its password.
        password: Zeroizing<String>,
    },
    /// The subject of the agent's certificate, a user of `$external`.
    Certificate,
}

impl Connection {
    /// Logs in.
    pub(crate) async fn log_in(&mut self, login: &Login) -> Result<(), Failure> {
        let done = match login {
            Login::Password { user, password } => self.with_password(user, password).await,
            Login::Certificate => {
                let ask = doc! { "authenticate": 1, "mechanism": "MONGODB-X509" };
                self.run("$external", ask).await.map(drop)
            }
        };
        match done {
            Err(Failure::Refused { code: FAILED, message, .. }) => {
                Err(ConnectionError::LogIn { address: self.address.clone(), message }.into())
            }
            done => done,
        }
    }

    async fn with_password(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let nonce: [u8; 24] =
            generate(&SystemRandom::new()).map_err(|_| ConnectionError::NoRandomBytes)?.expose();
        let scram = Scram::new(user, password, &BASE64.encode(&nonce));
        let unclear = ConnectionError::NotUnderstood { address: self.address.clone() };
        let start = doc! {
            "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload(&format!("n,,{}", scram.bare)),
            "options": { "skipEmptyExchange": true },
        };
        let answer = self.run("admin", start).await?;
        let conversation = answer.get("conversationId").cloned().unwrap_or(bson::Bson::Int32(1));
        let finish = said(&answer).and_then(|first| scram.answer(&first)).ok_or(unclear)?;
        let proof = doc! {
            "saslContinue": 1, "conversationId": conversation.clone(), "payload": payload(&finish.message),
        };
        let answer = self.run("admin", proof).await?;
        // Only who knows the password can sign: else anybody who listens there could say that we are welcome.
        if !said(&answer).is_some_and(|last| finish.is_signed(&last)) {
            return Err(ConnectionError::NotTheDatabase { address: self.address.clone() }.into());
        }
        if !answer.get_bool("done").unwrap_or(false) {
            let empty = doc! { "saslContinue": 1, "conversationId": conversation, "payload": payload("") };
            self.run("admin", empty).await?;
        }
        Ok(())
    }
}

fn payload(text: &str) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: text.as_bytes().to_vec() }
}

fn said(answer: &Document) -> Option<String> {
    String::from_utf8(answer.get_binary_generic("payload").ok()?.clone()).ok()
}

/// The client's side of one log-in.
struct Scram {
    /// `client-first-message-bare`.
    bare: String,
    nonce: String,
    password: Zeroizing<String>,
}

/// The client's last message, and what the server must sign it with.
struct Finish {
    message: String,
    signature: hmac::Tag,
}

impl Scram {
    fn new(user: &str, password: &str, nonce: &str) -> Self {
        // As mongod: a password that SASLprep forbids is taken as it is.
        let prepared = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), Into::into);
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self {
            bare: format!("n={user},r={nonce}"),
            nonce: nonce.to_owned(),
            password: Zeroizing::new(prepared),
        }
    }

    /// `None`: the server's first message is not one.
    fn answer(&self, first: &str) -> Option<Finish> {
        let field = |name: &str| first.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let nonce =
            field("r").filter(|nonce| nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce))?;
        let salt = BASE64.decode(field("s")?.as_bytes()).ok()?;
        let iterations = field("i")?.parse::<u32>().ok().filter(|count| *count >= FEWEST_ITERATIONS)?;
        let mut salted = Zeroizing::new([0; 32]);
        let iterations = NonZeroU32::new(iterations)?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, self.password.as_bytes(), &mut *salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&*salted, b"Client Key");
        let stored_key = digest(&SHA256, client_key.as_ref());
        let unproved = format!("c=biws,r={nonce}");
        let exchanged = format!("{},{first},{unproved}", self.bare);
        let client_signature = sign(stored_key.as_ref(), exchanged.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(client_signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = sign(&*salted, b"Server Key");
        Some(Finish {
            message: format!("{unproved},p={}", BASE64.encode(&proof)),
            signature: sign(server_key.as_ref(), exchanged.as_bytes()),
        })
    }
}

impl Finish {
    fn is_signed(&self, last: &str) -> bool {
        let signature = last.split(',').find_map(|part| part.strip_prefix("v="));
        let signature = signature.and_then(|text| BASE64.decode(text.as_bytes()).ok());
        signature.is_some_and(|bytes| verify_slices_are_equal(&bytes, self.signature.as_ref()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_exchange_is_that_of_the_rfc() {
        let scram = Scram::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.bare, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let finish = scram.answer(first).unwrap();
        assert_eq!(
            finish.message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(finish.is_signed("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!finish.is_signed("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") && !finish.is_signed(""));
    }

    #[test]
    fn a_first_message_that_helps_an_attacker_is_not_answered() {
        let scram = Scram::new("a,b=c", "p", "abc");
        assert_eq!(scram.bare, "n=a=2Cb=3Dc,r=abc");
        for first in [
            "r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=xyzabc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=abcd,s=***,i=4096",
            "r=abcd,i=4096",
            "",
        ] {
            assert!(scram.answer(first).is_none(), "{first}");
        }
        assert!(scram.answer("r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").is_some());
    }
}
