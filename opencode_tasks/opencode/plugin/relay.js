// In a sandbox without network, sends requests through a Unix socket to the relay outside (sandbox/relay.py).
//
// The URL of a request is in a header. A request that the relay does not send on, or that got no answer,
// fails here as it would without a relay.
//
// Environment:
//   OPENCODE_TASKS_RELAY        path of the socket
//   OPENCODE_TASKS_RELAY_HOSTS  with a network: the hosts whose requests use the relay, as JSON, because it
//                               has their keys; "" if all do

export const RELAY = process.env.OPENCODE_TASKS_RELAY
const HOSTS = process.env.OPENCODE_TASKS_RELAY_HOSTS && JSON.parse(process.env.OPENCODE_TASKS_RELAY_HOSTS)
const TARGET_HEADER = "x-opencode-tasks-target"
const REASON_HEADER = "x-opencode-tasks-relay"
const KEY_HEADERS = ["authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"]
const REDIRECTS = new Set([301, 302, 303, 307, 308])
const MAX_REDIRECTS = 10
const PORTS = { "http:": "80", "https:": "443" }

const usesRelay = (url) =>
  url.protocol in PORTS && (!HOSTS || HOSTS.includes(`${url.hostname.replace(/^\[|\]$/g, "")}:${url.port || PORTS[url.protocol]}`))

export function relayed(fetch) {
  const through = async (input, init) => {
    const url = new URL(String(input?.url ?? input))
    if (!usesRelay(url)) return fetch(input, init)
    const request = typeof input === "object" && input.headers ? input : {}
    const headers = new Headers(init?.headers ?? request.headers)
    headers.set(TARGET_HEADER, url.href)
    const method = init?.method ?? request.method ?? "GET"
    const body = init?.body ?? (request.body ? await request.arrayBuffer() : undefined)
    const signal = init?.signal ?? request.signal
    // Others are kept, such as that Bun's own time limit is off. The relay has the proxy and the certificates.
    const { proxy, tls, redirectsLeft, ...others } = init ?? {}
    const own = { method, headers, body, signal, redirect: "manual", unix: RELAY }
    const response = await fetch("http://relay/", { ...others, ...own })
    const reason = response.headers.get(REASON_HEADER)
    if (reason) throw new Error(Buffer.from(reason, "base64").toString("utf8"))
    const place = REDIRECTS.has(response.status) && response.headers.get("location")
    if (!place || (init?.redirect ?? request.redirect ?? "follow") !== "follow") return response
    // Another host must be one that the relay knows, and gets no keys.
    const next = new URL(place, url)
    const left = (init?.redirectsLeft ?? MAX_REDIRECTS) - 1
    if (left < 0) throw new Error("too many redirects")
    headers.delete(TARGET_HEADER)
    if (next.host !== url.host) for (const name of KEY_HEADERS) headers.delete(name)
    const isKept = response.status === 307 || response.status === 308
    const again = isKept ? { method, body } : { method: method === "HEAD" ? "HEAD" : "GET", body: undefined }
    return through(next.href, { ...others, ...again, headers, signal, redirectsLeft: left })
  }
  return Object.assign(through, fetch)
}
