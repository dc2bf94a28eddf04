// Plugin for opencode 1.15 to 1.18 that makes the usage of OpenAI-compatible providers readable for the
// AI SDK, whose package reads it strictly: a count that is a string ends the answer with an error, and a
// count that is reported beside another one instead of inside it gives a count below 0, which opencode
// cuts to 0.
//
// Only the field `usage` in streams of models with the package @ai-sdk/openai-compatible is changed:
//   a count that is a string of digits, such as "279", becomes a number
//   a value that is no count becomes null, details that are no object are removed
//   reasoning beside completion_tokens (xAI; Google's OpenAI-compatible address) is added to them
//   cached tokens beside prompt_tokens are added to them
// Tokens are beside another count if total_tokens is the sum of both, or if they are more than that count.
// Some providers send the usage inside the first choice: it is moved to its place.
//
// `opencode-tasks.js`, the other plugin, has the failures and the limits.

const PACKAGE = "@ai-sdk/openai-compatible"
const SESSION_HEADERS = ["x-opencode-tasks-session", "x-session-affinity", "x-opencode-session"]
const USAGE = /"usage"\s*:\s*[^\sn]/ // any value but null
const COUNTS = ["prompt_tokens", "completion_tokens", "total_tokens"]
const DETAILS = ["prompt_tokens_details", "completion_tokens_details"]
const packages = new Map() // session -> package of the model that it is about to ask

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value)

function count(value) {
  const number = typeof value === "string" && /^\s*\d+(\.0*)?\s*$/.test(value) ? Number(value) : value
  return typeof number === "number" && Number.isFinite(number) && number >= 0 ? Math.trunc(number) : null
}

function withCounts(values, names) {
  const found = names.filter((name) => name in values).map((name) => [name, count(values[name])])
  return { ...values, ...Object.fromEntries(found) }
}

function readableUsage(value) {
  if (!isObject(value)) return null
  const usage = withCounts(value, COUNTS)
  for (const name of DETAILS) {
    if (!(name in usage)) continue
    if (isObject(usage[name])) usage[name] = withCounts(usage[name], Object.keys(usage[name]))
    else delete usage[name]
  }
  const { prompt_tokens: prompt, completion_tokens: completion, total_tokens: total } = usage
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0
  const reasoning = usage.completion_tokens_details?.reasoning_tokens ?? 0
  if (prompt == null || completion == null) return usage
  const beside = total == null ? 0 : total - prompt - completion
  const isBoth = beside > 0 && beside === reasoning + cached
  const hasReasoningBeside = reasoning > completion || (reasoning > 0 && (beside === reasoning || isBoth))
  const hasCachedBeside = cached > prompt || (cached > 0 && (isBoth || (beside === cached && !hasReasoningBeside)))
  if (hasReasoningBeside) usage.completion_tokens = completion + reasoning
  if (hasCachedBeside) usage.prompt_tokens = prompt + cached
  return usage
}

function readableLine(line) {
  const text = Buffer.from(line, "latin1").toString("utf8")
  const start = text.indexOf("{")
  if (!text.startsWith("data:") || start < 0) return line
  let chunk
  try {
    chunk = JSON.parse(text.slice(start))
  } catch {
    return line
  }
  const inChoice = Array.isArray(chunk.choices) ? chunk.choices[0]?.usage : undefined
  const usage = chunk.usage ?? inChoice
  if (usage == null) return line
  const end = text.endsWith("\r") ? "\r" : ""
  return Buffer.from(`data: ${JSON.stringify({ ...chunk, usage: readableUsage(usage) })}${end}`, "utf8").toString("latin1")
}

function readable(response) {
  const reader = response.body.getReader()
  let rest = ""
  const lines = (text) => text.split("\n").map((line) => (USAGE.test(line) ? readableLine(line) : line)).join("\n")
  const body = new ReadableStream({
    async pull(controller) {
      // A pull that adds nothing is not repeated, so read until there is a complete line.
      while (true) {
        const { done, value } = await reader.read()
        if (done) {
          if (rest) controller.enqueue(Buffer.from(lines(rest), "latin1"))
          return controller.close()
        }
        const text = rest + Buffer.from(value).toString("latin1")
        const end = text.lastIndexOf("\n") + 1
        rest = text.slice(end)
        if (!end) continue
        controller.enqueue(Buffer.from(lines(text.slice(0, end)), "latin1"))
        return
      }
    },
    cancel: (reason) => reader.cancel(reason),
  })
  return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers })
}

function isCompatible(headers) {
  const values = SESSION_HEADERS.map((name) => headers.get(name))
  return packages.get(values.find((value) => value?.startsWith("ses_"))) === PACKAGE
}

function wrap(fetch) {
  const wrapped = async (input, init) => {
    const response = await fetch(input, init)
    const isStream = response.body && (response.headers.get("content-type") ?? "").includes("text/event-stream")
    return isStream && isCompatible(new Headers(init?.headers ?? input?.headers)) ? readable(response) : response
  }
  return Object.assign(wrapped, fetch, { opencodeTasksUsage: true })
}

if (!globalThis.fetch.opencodeTasksUsage) globalThis.fetch = wrap(globalThis.fetch)

export const ReadableUsage = async () => ({
  event: async ({ event }) => {
    if (event.type !== "session.idle" && event.type !== "session.deleted") return
    packages.delete(event.properties?.sessionID ?? event.properties?.info?.id)
  },
  "chat.headers": async (input) => {
    packages.set(input.sessionID, input.model?.api?.npm)
  },
})
