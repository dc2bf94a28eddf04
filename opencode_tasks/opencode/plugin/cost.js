// Cost of model calls, by the same rules as the ledger (domain/cost.py, domain/max_cost.py and
// outcomes/token_counts.py). All amounts are pico-dollars, prices are pico-dollars per million tokens.
//
// A price is {base, tiers, over200k, own, is_reported, in_force, max_output_tokens, max_input_tokens}. base,
// over200k, own and each of tiers have the rates input, output, reasoning, cache_read and cache_write; tiers
// and over200k also have above_tokens. is_reported is false if opencode has no price.

import { count, MAX_CALL_TOKENS } from "./usage.js"

const PICO = 1e12 // pico-dollars in a dollar
const MAX_CALL_USD = 10_000 // as in domain/money.py: more is an error of the report
const MILLION = 1e6
// Context of a model that states none.
const MAX_INPUT_TOKENS = 2_000_000

const isImpossible = (value) => typeof value === "number" && value > MAX_CALL_TOKENS
const whole = (value) => (typeof value === "number" && !Number.isNaN(value) && !isImpossible(value) ? Math.max(0, Math.trunc(value)) : null)
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0)

// The counts of a step; null is unknown. isCorrected: a count is not the one that opencode reports.
function countsOf(tokens, hasOutput) {
  const counts = {
    input: whole(tokens?.input),
    cache_read: whole(tokens?.cache?.read),
    cache_write: whole(tokens?.cache?.write),
    output: whole(tokens?.output),
    reasoning: whole(tokens?.reasoning),
  }
  if (!sum(Object.values(counts))) return
  const total = whole(tokens.total)
  const prompt = sum([counts.input, counts.cache_read, counts.cache_write])
  const completion = sum([counts.output, counts.reasoning])
  const fixed = { ...counts }
  if (total !== null && prompt + completion > total) {
    if (!counts.output && counts.reasoning && prompt <= total) fixed.output = total - prompt
    else if (!counts.input && completion <= total) fixed.input = total - completion
  }
  if (!fixed.input && !fixed.cache_read && !fixed.cache_write) fixed.input = null
  if (hasOutput && !fixed.output && !fixed.reasoning) fixed.output = null
  const hasImpossible = [...Object.values(tokens), ...Object.values(tokens.cache ?? {})].some(isImpossible)
  return { counts: fixed, isCorrected: hasImpossible || Object.keys(counts).some((kind) => counts[kind] !== fixed[kind]) }
}

function reachedTier(price, inputTokens) {
  const reached = price.tiers.filter((tier) => inputTokens > tier.above_tokens)
  if (reached.length) return reached.reduce((most, tier) => (tier.above_tokens > most.above_tokens ? tier : most))
  return price.over200k && inputTokens > price.over200k.above_tokens ? price.over200k : undefined
}

function costBy(rates, counts) {
  if (Object.values(counts).includes(null)) return
  return Math.round(sum(Object.entries(counts).map(([kind, count]) => count * rates[kind])) / MILLION)
}

// The cost of a step; undefined if it is unknown. Without a price, opencode's own cost is taken.
export function stepCost(part, price, hasOutput) {
  const found = countsOf(part.tokens, hasOutput)
  const cost = part.cost >= 0 && part.cost <= MAX_CALL_USD ? Math.round(part.cost * PICO) : undefined
  if (!found) return cost || undefined
  const isKnown = cost !== undefined && !found.isCorrected
  if (!price) return isKnown ? cost : undefined
  const { counts } = found
  const tier = reachedTier(price, sum([counts.input, counts.cache_read, counts.cache_write]))
  if (isKnown && (cost || price.is_reported) && (price.in_force || !tier)) return cost
  return costBy(price.own ?? tier ?? price.base, counts)
}

// Most that a call with up to these tokens can cost, in the most expensive tier that it can reach.
function mostFor(price, inputTokens, outputTokens) {
  const tiers = [...price.tiers, price.over200k].filter((tier) => tier && inputTokens > tier.above_tokens)
  const rates = [price.base, ...(price.own ? [price.own] : []), ...tiers]
  const input = Math.max(...rates.flatMap((one) => [one.input, one.cache_read, one.cache_write]))
  const output = Math.max(...rates.flatMap((one) => [one.output, one.reasoning]))
  return Math.ceil((inputTokens * input + outputTokens * output) / MILLION)
}

// Upper bound of the cost of a request by its JSON body: a token has at least one byte. The tokens of an image
// do not depend on its bytes: `fileTokens` are added for those of the prompt.
export function requestBound(body, price, fileTokens = 0) {
  if (!price) return 0
  const context = price.max_input_tokens ?? MAX_INPUT_TOKENS
  if (typeof body !== "string") return mostFor(price, context, price.max_output_tokens)
  const size = Math.min(Buffer.byteLength(body) + fileTokens, context)
  return mostFor(price, size, requestedOutput(body) ?? price.max_output_tokens)
}

function requestedOutput(body) {
  let asked
  try {
    asked = JSON.parse(body)
  } catch {
    return
  }
  const names = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
  const values = [...names.map((name) => asked?.[name]), asked?.generationConfig?.maxOutputTokens, asked?.inferenceConfig?.maxTokens]
  const found = values.filter((value) => typeof value === "number")
  return found.length ? Math.max(...found) : undefined
}

// Upper bound of the cost of a call by the usage in its response; undefined if that is incomplete.
export function usageBound(usage, price) {
  if (!usage || !price) return
  const read = (name) => count(usage[name])
  const first = (...names) => names.map(read).find((count) => count !== null)
  const beside = ["cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens", "cacheWriteInputTokens"]
  const prompt = first("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens")
  const completion = first("completion_tokens", "output_tokens", "candidatesTokenCount", "outputTokens")
  if (!prompt || !completion) return
  const input = prompt + sum(beside.map(read))
  const total = first("total_tokens", "totalTokenCount", "totalTokens") ?? 0
  return mostFor(price, input, Math.max(completion, total - prompt))
}
