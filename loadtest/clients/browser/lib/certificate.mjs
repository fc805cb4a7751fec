// A certificate for the name of the suite's namespace, and its authority, which the browsers of this run trust.
import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { HOST_NAME } from './namespace.mjs';

const folder = mkdtempSync(path.join(tmpdir(), 'auralink-certificate-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const file = (name) => path.join(folder, name);
export const CERT_FILE = file('cert.pem');
export const KEY_FILE = file('key.pem');
const [AUTHORITY_FILE, AUTHORITY_KEY_FILE, CONFIG_FILE] = [file('authority.pem'), file('authority-key.pem'), file('config')];

writeFileSync(
  CONFIG_FILE,
  `[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = keyCertSign
[server]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:${HOST_NAME}
`,
);

function issue(kind, cert, key, ...signer) {
  const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-keyout', key, '-out', cert];
  execFileSync('openssl', ['req', '-x509', '-config', CONFIG_FILE, '-extensions', kind, '-subj', `/CN=Suite ${kind}`, '-days', '2', ...made, ...signer], { stdio: 'pipe' });
}

issue('authority', AUTHORITY_FILE, AUTHORITY_KEY_FILE);
issue('server', CERT_FILE, KEY_FILE, '-CA', AUTHORITY_FILE, '-CAkey', AUTHORITY_KEY_FILE);

/// The hash of the certificate's public key, as Chromium wants it.
export const SPKI = createHash('sha256')
  .update(new X509Certificate(readFileSync(CERT_FILE)).publicKey.export({ type: 'spki', format: 'der' }))
  .digest('base64');

/// Makes a profile of Firefox trust the authority.
export function trustIn(profile) {
  const certutil = (...words) => execFileSync('certutil', [...words, '-d', `sql:${profile}`], { stdio: 'pipe' });
  certutil('-N', '--empty-password');
  certutil('-A', '-n', 'suite', '-t', 'C,,', '-i', AUTHORITY_FILE);
}
