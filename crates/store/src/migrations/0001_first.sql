-- One text for SQLite and PostgreSQL. Documents: what is shown is in the body, as JSON; the columns are what is asked for.
{documents}
CREATE TABLE "secret" (owner TEXT NOT NULL PRIMARY KEY, sealed BYTEA NOT NULL);
CREATE TABLE "event" (id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, event_type TEXT NOT NULL, org TEXT, project TEXT, cluster TEXT, body TEXT NOT NULL);
CREATE INDEX event_by_time ON "event" (at, id);
CREATE INDEX event_by_project ON "event" (project, at, id);
CREATE INDEX event_by_org ON "event" (org, at, id);
CREATE INDEX event_by_type ON "event" (event_type, at, id);
CREATE TABLE "grants" (principal TEXT NOT NULL, scope TEXT NOT NULL, role TEXT NOT NULL, PRIMARY KEY (principal, scope, role));
CREATE INDEX grants_by_scope ON "grants" (scope, principal);
CREATE TABLE "access_token" (sha256 TEXT NOT NULL PRIMARY KEY, client_id TEXT NOT NULL, expires_at BIGINT NOT NULL);
CREATE INDEX access_token_by_client ON "access_token" (client_id);
CREATE INDEX access_token_by_expiry ON "access_token" (expires_at);
CREATE TABLE "nonce" (nonce TEXT NOT NULL PRIMARY KEY, last_nc BIGINT NOT NULL, expires_at BIGINT NOT NULL);
CREATE INDEX nonce_by_expiry ON "nonce" (expires_at);
CREATE TABLE "lease" (job TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, until BIGINT NOT NULL, fence BIGINT NOT NULL);
CREATE TABLE "report" (node_id TEXT NOT NULL PRIMARY KEY, report BIGINT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE "desired" (node_id TEXT NOT NULL PRIMARY KEY, revision BIGINT NOT NULL, sealed BYTEA NOT NULL);
CREATE INDEX desired_by_revision ON "desired" (revision);
CREATE TABLE "change_turn" (place BIGINT);
