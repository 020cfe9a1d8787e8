// Drives a development vault with Azure's own JavaScript client. Argument: the vault's vault.json; the environment
// variable NODE_EXTRA_CA_CERTS names its certificate authority. The first application must hold all permissions; the
// vault must be in RBAC mode with purge protection off.

import assert from "node:assert/strict";
import { constants, generateKeyPairSync, publicEncrypt } from "node:crypto";
import { readFileSync } from "node:fs";
import { ClientSecretCredential } from "@azure/identity";
import { CryptographyClient, KeyClient } from "@azure/keyvault-keys";

const vault = JSON.parse(readFileSync(process.argv[2], "utf8"));

async function admin(method, path, body) {
  const answer = await fetch(`${vault.adminUrl}/keyward/v1/${path}`, {
    method,
    headers: { Authorization: `Bearer ${vault.adminToken}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  assert.ok(answer.ok, `${path}: ${answer.status}`);
  const text = await answer.text();
  return text ? JSON.parse(text) : undefined;
}

function secretCredential(clientId = vault.clientId, secret = vault.clientSecret) {
  return new ClientSecretCredential(vault.tenantId, clientId, secret, {
    authorityHost: vault.authority,
    disableInstanceDiscovery: true,
  });
}

const retryOptions = { maxRetries: 3, retryDelayInMs: 100, maxRetryDelayInMs: 1000 };
const settings = { disableChallengeResourceVerification: true, retryOptions };
const once = { ...settings, retryOptions: { maxRetries: 0 } };

async function refused(call, statusCode, code) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.statusCode, statusCode, `${error.statusCode} ${error.message}`);
    if (code) {
      const details = error.details.error;
      assert.equal(details.innerError?.code ?? details.code, code);
    }
    return error;
  }
  throw new Error(`was not refused: ${call}`);
}

const credential = secretCredential();
const keys = new KeyClient(vault.url, credential, settings);
const crypto = (id, options = settings) => new CryptographyClient(id, credential, options);
const poll = { intervalInMs: 50 };

// Create, get, versions, list, update.
const first = await keys.createRsaKey("js-key", { keySize: 2048, tags: { for: "test" } });
assert.equal(first.keyType, "RSA");
assert.equal((await keys.getKey("js-key")).id, first.id);
const second = await keys.createRsaKey("js-key", { keySize: 4096 });
assert.equal((await keys.getKey("js-key", { version: first.properties.version })).id, first.id);
const versions = new Set();
for await (const p of keys.listPropertiesOfKeyVersions("js-key")) versions.add(p.version);
assert.deepEqual(versions, new Set([first.properties.version, second.properties.version]));
const names = [];
for await (const p of keys.listPropertiesOfKeys()) names.push(p.name);
assert.deepEqual(names, ["js-key"]);
// Before 2038: this client keeps seconds in 32 bits.
const expiresOn = new Date("2037-01-01T00:00:00Z");
const updated = await keys.updateKeyProperties("js-key", second.properties.version, { expiresOn });
assert.equal(updated.properties.expiresOn.getTime(), expiresOn.getTime());

// Encrypt, decrypt, wrap, unwrap; with a version, without one, and with the name only.
const secret = new Uint8Array(32).map((_, i) => i);
for (const id of [first.id, second.id]) {
  for (const algorithm of ["RSA-OAEP-256", "RSA-OAEP"]) {
    const wrapped = await crypto(id).wrapKey(algorithm, secret);
    const opened = await crypto(id).unwrapKey(algorithm, wrapped.result);
    assert.deepEqual(new Uint8Array(opened.result), secret);
    const sealed = await crypto(id).encrypt({ algorithm, plaintext: secret });
    const plain = await crypto(id).decrypt({ algorithm, ciphertext: sealed.result });
    assert.deepEqual(new Uint8Array(plain.result), secret);
  }
}
const versionless = keys.getCryptographyClient("js-key");
const byName = await versionless.wrapKey("RSA-OAEP-256", secret);
assert.deepEqual(new Uint8Array((await versionless.unwrapKey("RSA-OAEP-256", byName.result)).result), secret);
const damaged = Uint8Array.from(byName.result);
damaged[100] ^= 1;
await refused(() => crypto(second.id).unwrapKey("RSA-OAEP-256", damaged), 400, "BadParameter");

// Import: what the outside key seals, the vault opens.
const pair = generateKeyPairSync("rsa", { modulusLength: 3072 });
const jwk = pair.privateKey.export({ format: "jwk" });
const octets = (text) => new Uint8Array(Buffer.from(text, "base64url"));
const imported = await keys.importKey("js-imported", {
  kty: "RSA",
  keyOps: ["wrapKey", "unwrapKey"],
  ...Object.fromEntries(["n", "e", "d", "p", "q", "dp", "dq", "qi"].map((name) => [name, octets(jwk[name])])),
});
assert.deepEqual(new Uint8Array(imported.key.n), octets(jwk.n));
const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" };
const outside = new Uint8Array(publicEncrypt({ key: pair.publicKey, ...padding }, secret));
assert.deepEqual(new Uint8Array((await crypto(imported.id).unwrapKey("RSA-OAEP-256", outside)).result), secret);

// Rotation and its policy.
const policy = await keys.updateKeyRotationPolicy("js-key", {
  expiresIn: "P2Y",
  lifetimeActions: [{ action: "Rotate", timeBeforeExpiry: "P30D" }],
});
assert.equal(policy.expiresIn, "P2Y");
assert.equal((await keys.getKeyRotationPolicy("js-key")).lifetimeActions[0].timeBeforeExpiry, "P30D");
const third = await keys.rotateKey("js-key");
assert.notEqual(third.id, second.id);
const wrapped = (await crypto(third.id).wrapKey("RSA-OAEP-256", secret)).result;

// Disabled.
await keys.updateKeyProperties("js-key", third.properties.version, { enabled: false });
assert.equal((await keys.getKey("js-key")).properties.enabled, false);
await refused(() => crypto(third.id).unwrapKey("RSA-OAEP-256", wrapped), 403, "KeyDisabled");
await keys.updateKeyProperties("js-key", third.properties.version, { enabled: true });

// Backup, delete, recover, purge, restore.
const blob = await keys.backupKey("js-key");
await refused(() => keys.restoreKeyBackup(blob), 409);
const deleted = await (await keys.beginDeleteKey("js-key", poll)).pollUntilDone();
assert.ok(deleted.properties.recoveryId.endsWith("/deletedkeys/js-key"));
await refused(() => keys.getKey("js-key"), 404, "KeyNotFound");
await refused(() => keys.createRsaKey("js-key"), 409, "ObjectIsDeletedButRecoverable");
assert.equal((await keys.getDeletedKey("js-key")).id, third.id);
await (await keys.beginRecoverDeletedKey("js-key", poll)).pollUntilDone();
assert.deepEqual(new Uint8Array((await crypto(third.id).unwrapKey("RSA-OAEP-256", wrapped)).result), secret);
await (await keys.beginDeleteKey("js-key", poll)).pollUntilDone();
await keys.purgeDeletedKey("js-key");
await refused(() => keys.getDeletedKey("js-key"), 404);
assert.equal((await keys.restoreKeyBackup(blob)).id, third.id);
assert.deepEqual(new Uint8Array((await crypto(third.id).unwrapKey("RSA-OAEP-256", wrapped)).result), secret);

// Denials.
const other = await admin("POST", "apps", { name: "other" });
const stranger = new KeyClient(vault.url, secretCredential(other.clientId, other.clientSecret), settings);
await refused(() => stranger.getKey("js-key"), 403, "ForbiddenByRbac");
await admin("POST", "access/grant", { clientId: other.clientId });
assert.equal((await stranger.getKey("js-key")).id, third.id);
await refused(() => stranger.rotateKey("js-key"), 403, "ForbiddenByRbac");
await assert.rejects(
  () => new KeyClient(vault.url, secretCredential(other.clientId, "no"), settings).getKey("js-key"),
  /AADSTS7000215/,
);
await admin("POST", `apps/${other.clientId}/expire-secret`);
await assert.rejects(
  () => new KeyClient(vault.url, secretCredential(other.clientId, other.clientSecret), settings).getKey("js-key"),
  /AADSTS7000222/,
);

// Faults.
// Counted from before the fault, which is over after a second, whatever delays the client.
const begun = Date.now();
await admin("PUT", "faults/throttle", { forS: 1 });
assert.equal((await keys.getKey("js-key")).id, third.id);
assert.ok(Date.now() - begun >= 900, "Retry-After was not respected");
for (const [fault, status, code] of [
  ["firewall", 403, "ForbiddenByFirewall"],
  ["private-link", 403, "ForbiddenByConnection"],
  ["error500", 500, "InternalServerError"],
  ["error503", 503, "ServiceUnavailable"],
]) {
  await admin("PUT", `faults/${fault}`, {});
  await refused(() => new KeyClient(vault.url, credential, once).getKey("js-key"), status, code);
  await admin("DELETE", "faults");
}
assert.equal((await keys.getKey("js-key")).id, third.id);
console.log("javascript: all done");
