// Makes the usage that providers report readable for opencode's clients, which read it strictly: a count
// that is a string ends the answer with an error, and a count that is reported beside another one instead
// of inside it gives a count below 0, which opencode cuts to 0.
//
// On every wire, a number in quotes, such as "279" or "10.0", becomes a number, null and an impossible count are
// removed, and an unknown count never loses the answer. For models with the package @ai-sdk/openai-compatible
// also:
//   a value that is no count becomes null, details that are no object are removed
//   reasoning beside completion_tokens (xAI; Google's OpenAI-compatible address) is added to them
//   cached tokens beside prompt_tokens are added to them
// Tokens are beside another count if total_tokens is the sum of both, or if they are more than that count.
// Some providers send the usage inside the first choice: it is moved to its place.

const PACKAGE = "@ai-sdk/openai-compatible"
const COUNTS = ["prompt_tokens", "completion_tokens", "total_tokens"]
const DETAILS = ["prompt_tokens_details", "completion_tokens_details"]

// As in outcomes/token_counts.py: more is an error of the report.
export const MAX_CALL_TOKENS = 1e9
const NUMBER = /^\s*-?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*$/i

// JSON has no infinite number: 1e400 is read as one, and would be written as null.
const textOf = (value) => JSON.stringify(value, (_, one) => (one === Infinity ? "Infinity" : one))

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value)

const unquoted = (value) => (typeof value === "string" && NUMBER.test(value) ? Number(value) : value)

export function count(value) {
  const number = unquoted(value)
  return typeof number === "number" && number >= 0 && number <= MAX_CALL_TOKENS ? Math.trunc(number) : null
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
  // A part of an unknown count says nothing about its rest.
  if (prompt == null) delete usage.prompt_tokens_details
  if (completion == null) delete usage.completion_tokens_details
  if (prompt == null || completion == null) return usage
  const beside = total == null ? 0 : total - prompt - completion
  const isBoth = beside > 0 && beside === reasoning + cached
  const isMore = reasoning > completion && (total == null || beside > 0)
  const hasReasoningBeside = isMore || (reasoning > 0 && (beside === reasoning || isBoth))
  const hasCachedBeside = cached > prompt || (cached > 0 && (isBoth || (beside === cached && !hasReasoningBeside)))
  if (hasReasoningBeside) usage.completion_tokens = completion + reasoning
  else if (reasoning > completion) usage.completion_tokens_details.reasoning_tokens = completion
  if (hasCachedBeside) usage.prompt_tokens = prompt + cached
  return usage
}

// Numbers in quotes as numbers, at every depth, without null and impossible numbers; returns whether it changed.
function plain(holder) {
  const before = textOf(holder)
  for (const [key, value] of Object.entries(holder)) {
    const number = unquoted(value)
    if (number === null || (typeof number === "number" && !(number <= MAX_CALL_TOKENS))) delete holder[key]
    else if (typeof number === "object") plain(number)
    else holder[key] = number
  }
  return textOf(holder) !== before
}

function correctChat(event) {
  const usage = event.usage ?? (Array.isArray(event.choices) ? event.choices[0]?.usage : undefined)
  if (usage == null) return false
  const readable = readableUsage(usage)
  if (textOf(readable) === textOf(event.usage)) return false
  event.usage = readable
  return true
}

// Other clients of chat completions need a number for each count: an unknown one is 0, which Python reads
// as unknown.
function completeChat(holder) {
  if (!isObject(holder?.usage)) return false
  const { usage } = holder
  const before = textOf(usage)
  for (const [name, details] of [["prompt_tokens", DETAILS[0]], ["completion_tokens", DETAILS[1]]]) {
    if (count(usage[name]) !== null) continue
    usage[name] = 0
    delete usage[details]
  }
  if (count(usage.total_tokens) === null) usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
  return textOf(usage) !== before
}

// Gemini leaves out counts of 0. The rest of the total is the answer. Its client does not read the tokens that
// tools of the provider added to the prompt, which count as input.
function completeGemini(usage) {
  if (!isObject(usage)) return false
  const before = textOf(usage)
  const ofTools = count(usage.toolUsePromptTokenCount)
  if (ofTools !== null && count(usage.promptTokenCount) !== null) {
    usage.promptTokenCount += ofTools
    delete usage.toolUsePromptTokenCount
  }
  const { promptTokenCount: prompt, totalTokenCount: total } = usage
  if (count(prompt) === null) delete usage.cachedContentTokenCount
  if (count(usage.candidatesTokenCount) === null && count(prompt) !== null && count(total) !== null) {
    const others = [prompt, usage.thoughtsTokenCount].map((value) => count(value) ?? 0)
    usage.candidatesTokenCount = Math.max(0, total - others.reduce((sum, value) => sum + value, 0))
  }
  return textOf(usage) !== before
}

// Bedrock's client needs these three; an unknown one is 0.
function completeBedrock(event) {
  if (!isObject(event.usage) || !isObject(event.metrics)) return false
  const known = ["inputTokens", "outputTokens"].map((name) => count(event.usage[name]) !== null)
  if (!known[0]) for (const name of ["cacheReadInputTokens", "cacheWriteInputTokens"]) delete event.usage[name]
  return withDefaults(event, ["inputTokens", "outputTokens", "totalTokens"])
}

// Anthropic's client needs a usage in these events; without one, the counts stay unknown.
function completeAnthropic(event) {
  if (event.type === "message_start" && isObject(event.message)) {
    return withDefaults(event.message, ["input_tokens", "output_tokens"])
  }
  return event.type === "message_delta" && withDefaults(event, ["output_tokens"])
}

function withDefaults(holder, names) {
  const usage = isObject(holder.usage) ? holder.usage : {}
  const isComplete = usage === holder.usage && names.every((name) => typeof usage[name] === "number")
  const hasNulls = Object.values(usage).includes(null)
  if (isComplete && !hasNulls) return false
  // A part of an unknown count says nothing about its rest.
  if (count(usage.output_tokens) === null) delete usage.output_tokens_details
  if (count(usage.input_tokens) === null) {
    for (const name of ["cache_read_input_tokens", "cache_creation_input_tokens"]) delete usage[name]
  }
  const known = Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== null))
  holder.usage = { ...Object.fromEntries(names.map((name) => [name, 0])), ...known }
  return true
}

// Changes the usage in a parsed event for the client of a provider; returns whether it did.
export function correctUsage(event, client) {
  if (!isObject(event)) return false
  if (client === PACKAGE) return correctChat(event)
  let isChanged = false
  for (const holder of [event, event.message, event.response, event.x_groq]) {
    for (const key of ["usage", "usageMetadata"]) {
      if (isObject(holder?.[key])) isChanged = plain(holder[key]) || isChanged
    }
  }
  if (Array.isArray(event.choices)) for (const holder of [event, event.x_groq]) isChanged = completeChat(holder) || isChanged
  const completed = [completeGemini(event.usageMetadata), completeBedrock(event), completeAnthropic(event)]
  return completed.includes(true) || isChanged
}
