// A project from its creation to its end: what MongoDB's MCP server can do by its tools over stdio, the rest by the
// Atlas API client that it is built on. Both as they are published, over OAuth.
//
// Reads its orders as JSON from standard input and prints one line per step.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { ApiClient, ApiClientError, AuthProviderFactory } from "@mongodb-js/mcp-atlas-api-client";

const orders = JSON.parse(readFileSync(0, "utf8"));

function say(step, facts = {}) {
  console.log(JSON.stringify({ step, ...facts }));
}

async function wait(what, check, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  while (!(await check())) {
    assert.ok(Date.now() < end, `waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

// The MCP server as a process: one JSON-RPC message per line.
class Mcp {
  #answers = new Map();
  #next = 1;

  constructor() {
    const packageFile = join(dirname(fileURLToPath(import.meta.url)), "node_modules/mongodb-mcp-server/package.json");
    const program = join(dirname(packageFile), JSON.parse(readFileSync(packageFile, "utf8")).bin["mongodb-mcp-server"]);
    this.child = spawn(process.execPath, [program, "--apiBaseUrl", `${orders.url}/`], {
      env: {
        PATH: process.env.PATH,
        HOME: orders.home,
        SSL_CERT_FILE: orders.ca_file,
        MDB_MCP_API_CLIENT_ID: orders.credentials.client_id,
        MDB_MCP_API_CLIENT_SECRET: orders.credentials.client_secret,
      },
      stdio: ["pipe", "pipe", "inherit"],
    });
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      const message = JSON.parse(line);
      this.#answers.get(message.id)?.(message);
      this.#answers.delete(message.id);
    });
  }

  send(message) {
    this.child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  }

  ask(method, params) {
    const id = this.#next++;
    this.send({ id, method, params });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method}: no answer in time`)), 60_000);
      this.#answers.set(id, (message) => {
        clearTimeout(timer);
        if (message.error) reject(new Error(JSON.stringify(message.error)));
        else resolve(message.result);
      });
    });
  }

  async tool(name, args) {
    const result = await this.ask("tools/call", { name, arguments: args });
    const text = result.content.map((part) => part.text).join("\n");
    assert.ok(!result.isError, `${name}: ${text}`);
    return { text, data: result.structuredContent };
  }

  async start() {
    await this.ask("initialize", {
      protocolVersion: "2025-06-18",
      capabilities: {},
      clientInfo: { name: "keyward-test", version: "1" },
    });
    this.send({ method: "notifications/initialized" });
  }

  async stop() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.stdin.end();
    this.child.kill("SIGTERM");
    await ended;
  }
}

const quiet = new Proxy({}, { get: () => () => undefined });

function apiClient() {
  const httpClient = { fetch: globalThis.fetch, Request: globalThis.Request };
  const userAgent = "keyward-test/1";
  const credentials = { clientId: orders.credentials.client_id, clientSecret: orders.credentials.client_secret };
  const authProvider = AuthProviderFactory.create(
    { apiBaseUrl: orders.url, userAgent, credentials, httpClient },
    quiet,
  );
  return new ApiClient({ options: { baseUrl: orders.url, userAgent, httpClient }, logger: quiet, authProvider });
}

async function refused(code, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof ApiClientError, String(error));
    assert.equal(error.apiError.errorCode, code, JSON.stringify(error.apiError));
    return error;
  }
  assert.fail(`not refused with ${code}`);
}

const mcp = new Mcp();
await mcp.start();
const organizations = await mcp.tool("atlas-list-orgs", {});
assert.ok(JSON.stringify(organizations).includes(orders.org), organizations.text);
await mcp.tool("atlas-create-project", { projectName: orders.name, orgId: orders.org });
const api = apiClient();
const groups = await api.listGroups({ params: {} });
const groupId = groups.results.find((group) => group.name === orders.name).id;
const path = { groupId };
say("creates a project", { group: groupId });

const user = await api.client.POST("/api/atlas/v2/groups/{groupId}/users", {
  params: { path },
  body: { username: orders.owner, roles: ["GROUP_OWNER"] },
});
assert.equal(user.data?.username, orders.owner, JSON.stringify(user.error));
say("adds a project owner");

const before = await api.getEncryptionAtRest({ params: { path } });
for (const provider of ["awsKms", "azureKeyVault", "googleCloudKms"]) assert.equal(before[provider].enabled, false);
const { azureKeyVault: stored } = await api.updateEncryptionAtRest({
  params: { path },
  body: { azureKeyVault: orders.vault },
});
assert.equal(stored.valid, true);
assert.equal(stored.secret, undefined);
assert.equal(stored.keyIdentifier, orders.vault.keyIdentifier);
say("sets the customer key");

const created = await mcp.tool("atlas-create-cluster", {
  projectId: groupId,
  clusterName: "orders",
  provider: "AZURE",
  regions: ["US_EAST_2"],
});
assert.equal(created.data.encryptionAtRestProvider, "AZURE", created.text);
const inspect = async () => (await mcp.tool("atlas-inspect-cluster", { projectId: groupId, clusterName: "orders" })).data;
await wait("the cluster", async () => (await inspect()).state === "IDLE");
const cluster = await api.getCluster({ params: { path: { groupId, clusterName: "orders" } } });
assert.equal(cluster.encryptionAtRestProvider, "AZURE");
say("creates a cluster");

const { azureKeyVault: rotated } = await api.updateEncryptionAtRest({
  params: { path },
  body: { azureKeyVault: { keyIdentifier: orders.next_key } },
});
assert.equal(rotated.keyIdentifier, orders.next_key);
await wait("the cluster", async () => (await inspect()).state === "IDLE");
say("rotates the key in place");

const alerts = await mcp.tool("atlas-list-alerts", { projectId: groupId, includeCount: true });
assert.ok(Array.isArray(alerts.data.alerts), alerts.text);
const events = await api.client.GET("/api/atlas/v2/groups/{groupId}/events", { params: { path } });
const names = events.data.results.map((event) => event.eventTypeName);
assert.ok(names.includes("CLUSTER_CREATED") && names.at(-1) === "GROUP_CREATED", names.join());
say("reads events", { count: names.length });

await refused(orders.in_use, () =>
  api.updateEncryptionAtRest({ params: { path }, body: { azureKeyVault: { enabled: false } } }),
);
await api.deleteCluster({ params: { path: { groupId, clusterName: "orders" } } });
await wait("the cluster's end", async () => {
  try {
    await api.getCluster({ params: { path: { groupId, clusterName: "orders" } } });
    return false;
  } catch (error) {
    assert.equal(error.apiError.errorCode, "CLUSTER_NOT_FOUND", String(error));
    return true;
  }
});
const off = Object.fromEntries(["awsKms", "azureKeyVault", "googleCloudKms"].map((name) => [name, { enabled: false }]));
await api.updateEncryptionAtRest({ params: { path }, body: off });
await api.deleteGroup({ params: { path } });
const left = await mcp.tool("atlas-list-projects", {});
assert.ok(!JSON.stringify(left).includes(groupId), left.text);
await api.close();
await mcp.stop();
say("tears down");
