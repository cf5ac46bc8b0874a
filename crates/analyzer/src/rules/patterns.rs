//! Cards of the rules about calls that are wrong by themselves.

use crate::finding::{Example, Kind, Level, Rule};

pub(super) const WEAK_HASH: Rule = Rule {
    id: "weak-hash",
    name: "Weak hash function",
    kind: Kind::Pattern,
    level: Level::Warning,
    cwe: &[328, 327, 326],
    short: "a hash function for which collisions can be made",
    why: "Two different inputs with the same MD5 or SHA-1 can be made by anyone with a rented machine. Signatures, \
          integrity checks and certificates built on them prove nothing, and passwords hashed with them are guessed by \
          the billion per second.",
    fix: "Use SHA-256 or BLAKE3 for integrity, HMAC-SHA-256 for messages, and Argon2, scrypt or bcrypt for passwords.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "MessageDigest.getInstance(\"MD5\")",
            fixed: "MessageDigest.getInstance(\"SHA-256\")",
        },
        Example {
            language: "python",
            vulnerable: "hashlib.md5(data)",
            fixed: "hashlib.sha256(data)",
        },
        Example {
            language: "javascript",
            vulnerable: "crypto.createHash('sha1')",
            fixed: "crypto.createHash('sha256')",
        },
        Example {
            language: "c",
            vulnerable: "MD5(data, length, digest);",
            fixed: "SHA256(data, length, digest);",
        },
    ],
    limits: "Whether the hash protects anything is not known: a checksum against accidents or a key of a cache may stay.",
    prior: 0.8,
};

pub(super) const WEAK_CIPHER: Rule = Rule {
    id: "weak-cipher",
    name: "Weak cipher or mode",
    kind: Kind::Pattern,
    level: Level::Warning,
    cwe: &[327, 326],
    short: "a cipher or mode that no longer hides what it encrypts",
    why: "DES keys are found by trying them all, RC4 leaks its text, ciphers with blocks of 64 bits repeat after some \
          gigabytes, and ECB shows which blocks are equal.",
    fix: "Use AES-GCM or ChaCha20-Poly1305 with a fresh nonce for every message.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "Cipher.getInstance(\"DES/CBC/PKCS5Padding\")",
            fixed: "Cipher.getInstance(\"AES/GCM/NoPadding\")",
        },
        Example {
            language: "python",
            vulnerable: "DES.new(key, DES.MODE_ECB)",
            fixed: "AES.new(key, AES.MODE_GCM)",
        },
        Example {
            language: "javascript",
            vulnerable: "crypto.createCipheriv('des-ede3-cbc', key, iv)",
            fixed: "crypto.createCipheriv('aes-256-gcm', key, iv)",
        },
        Example {
            language: "c",
            vulnerable: "EVP_EncryptInit_ex(ctx, EVP_des_cbc(), NULL, key, iv);",
            fixed: "EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, iv);",
        },
    ],
    limits: "The name of the cipher must be a constant in this file. Old data that must still be read is reported too.",
    prior: 0.9,
};

pub(super) const WEAK_RANDOM: Rule = Rule {
    id: "weak-random",
    name: "Predictable random numbers",
    kind: Kind::Pattern,
    level: Level::Warning,
    cwe: &[330, 338],
    short: "random numbers that can be predicted from earlier ones",
    why: "A general random generator has a small state. Some outputs, or the time of its start, are enough to compute \
          all others: session ids, tokens, passwords and keys made from it can be guessed.",
    fix: "Take numbers for secrets from the system's generator: `SecureRandom`, `secrets`, `crypto.randomBytes`, \
          `getrandom`.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "String token = Long.toString(new Random().nextLong());",
            fixed: "String token = Long.toString(new SecureRandom().nextLong());",
        },
        Example {
            language: "python",
            vulnerable: "token = random.randint(0, 10**9)",
            fixed: "token = secrets.randbelow(10**9)",
        },
        Example {
            language: "javascript",
            vulnerable: "const token = Math.random().toString(36)",
            fixed: "const token = crypto.randomBytes(16).toString('hex')",
        },
        Example {
            language: "c",
            vulnerable: "int token = rand();",
            fixed: "unsigned int token;\ngetrandom(&token, sizeof token, 0);",
        },
    ],
    limits: "What the number is for is not known: games, samples and retries may keep the fast generator.",
    prior: 0.2,
};

pub(super) const INSECURE_COOKIE: Rule = Rule {
    id: "insecure-cookie",
    name: "Cookie without the Secure flag",
    kind: Kind::Pattern,
    level: Level::Warning,
    cwe: &[614, 311],
    short: "a cookie that the browser also sends without encryption",
    why: "One request over plain HTTP, which anyone in the network can provoke, shows the cookie to everyone on the way.",
    fix: "Set the Secure flag on every cookie, and serve everything by HTTPS.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "cookie.setSecure(false);\nresponse.addCookie(cookie);",
            fixed: "cookie.setSecure(true);\nresponse.addCookie(cookie);",
        },
        Example {
            language: "python",
            vulnerable: "response.set_cookie('id', value)",
            fixed: "response.set_cookie('id', value, secure=True, httponly=True)",
        },
        Example {
            language: "javascript",
            vulnerable: "res.cookie('id', value)",
            fixed: "res.cookie('id', value, { secure: true, httpOnly: true })",
        },
    ],
    limits: "Flags that a container or a proxy adds are not seen.",
    prior: 0.6,
};

pub(super) const COOKIE_HTTPONLY: Rule = Rule {
    id: "cookie-without-httponly",
    name: "Cookie that scripts can read",
    kind: Kind::Pattern,
    level: Level::Warning,
    cwe: &[1004, 732],
    short: "a cookie without the HttpOnly flag",
    why: "Any script on the page, also one that came in by cross-site scripting, can read the cookie and send it away.",
    fix: "Set the HttpOnly flag on cookies that no script of yours needs to read, above all on session cookies.",
    examples: &[
        Example {
            language: "java",
            vulnerable: "Cookie cookie = new Cookie(\"id\", value);\nresponse.addCookie(cookie);",
            fixed: "Cookie cookie = new Cookie(\"id\", value);\ncookie.setHttpOnly(true);\nresponse.addCookie(cookie);",
        },
        Example {
            language: "python",
            vulnerable: "response.set_cookie('id', value, secure=True)",
            fixed: "response.set_cookie('id', value, secure=True, httponly=True)",
        },
        Example {
            language: "javascript",
            vulnerable: "res.cookie('id', value, { secure: true })",
            fixed: "res.cookie('id', value, { secure: true, httpOnly: true })",
        },
    ],
    limits: "Cookies that a script must read, such as tokens against forged requests, are reported too.",
    prior: 0.0,
};

pub(super) const DANGEROUS_FUNCTION: Rule = Rule {
    id: "dangerous-function",
    name: "Function that can't be used safely",
    kind: Kind::Pattern,
    level: Level::Error,
    cwe: &[242, 120, 676],
    short: "a function that writes without knowing how much room there is",
    why: "`gets` reads a line of any length into memory of a fixed size. There is no way to call it safely: whoever \
          writes the line writes over what lies behind.",
    fix: "Use `fgets` or `getline` with the size of the buffer.",
    examples: &[Example {
        language: "c",
        vulnerable: "gets(line);",
        fixed: "fgets(line, sizeof line, stdin);",
    }],
    limits: "Only functions without any safe use are listed.",
    prior: 2.0,
};
