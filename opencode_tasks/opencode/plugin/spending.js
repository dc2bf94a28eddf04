// What the sessions of one prompt have cost, and whether they may send a further request.
//
// A call is open from its request until opencode reports its step. The step of a call with tools is
// reported after the tools have ended, so requests of a sub-agent are sent while the call of its parent
// is open: such a call counts by the usage in its response. A call without a reported usage counts by
// the upper bound of its request.

import { readFileSync } from "node:fs"
import { requestBound, stepCost, usageBound } from "./cost.js"

const lists = new Map() // path -> prices by provider/model
const MAX_LISTS = 20

// The prices in a file; undefined without one that can be read.
function readPrices(path) {
  if (!path) return
  if (!lists.has(path)) {
    if (lists.size >= MAX_LISTS) lists.clear()
    try {
      lists.set(path, JSON.parse(readFileSync(path, "utf8")))
    } catch {
      return
    }
  }
  return lists.get(path)
}

export class Spending {
  constructor() {
    this.maxPico = Infinity
    this.prices = undefined
    this.steps = new Map() // id of a step -> {pico, bound}; pico is undefined if its cost is unknown
    this.open = new Map() // session -> its open call
    this.lostPico = 0 // upper bound of the calls for which opencode reports no step
  }

  setLimit(maxPico, path) {
    this.maxPico = maxPico
    this.prices = readPrices(path)
  }

  // Opens a call, or returns why it must not be sent. Waits for the calls of other sessions if all of
  // them together may exceed the limit.
  async admit(session, ref, body, signal, fileTokens) {
    const price = this.prices?.[ref]
    let end
    const call = { price, bound: requestBound(body, price, fileTokens), isEnded: false, usage: undefined }
    call.whenEnded = new Promise((resolve) => (end = resolve))
    call.end = (usage) => {
      call.isEnded = true
      call.usage ??= usage
      end()
    }
    const previous = this.open.get(session)
    if (previous) {
      this.open.delete(session)
      previous.end()
      this.lostPico += costOf(previous)
    }
    while (this.maxPico !== Infinity) {
      const spent = this.spentPico(call.bound)
      const limits = { kind: "cost", limit_pico: this.maxPico, spent_pico: spent }
      if (spent > this.maxPico) return limits
      if (this.prices && !price) return { ...limits, model: ref }
      const running = [...this.open.values()].filter((one) => !one.isEnded)
      const most = running.reduce((sum, one) => sum + one.bound, spent)
      if (!running.length || most <= this.maxPico || signal?.aborted) break
      const aborted = new Promise((resolve) => signal?.addEventListener("abort", resolve, { once: true }))
      await Promise.race([...running.map((one) => one.whenEnded), aborted])
    }
    this.open.set(session, call)
  }

  // The calls that have ended, in pico-dollars. Steps of an earlier process have no bound of their own: the
  // next request of the session contains theirs.
  spentPico(nextBound) {
    const steps = [...this.steps.values()].map(({ pico, bound }) => pico ?? bound ?? nextBound)
    const ended = [...this.open.values()].filter((call) => call.isEnded).map(costOf)
    return [...steps, ...ended].reduce((sum, pico) => sum + pico, this.lostPico)
  }

  // The response of a session's call has ended.
  end(session, usage) {
    this.open.get(session)?.end(usage)
  }

  // The provider does not charge for the call of a session.
  drop(session) {
    this.end(session)
    this.open.delete(session)
  }

  // A finished step, which may be reported several times.
  addStep(part, ref, hasOutput) {
    const pico = stepCost(part, this.prices?.[ref], hasOutput)
    const known = this.steps.get(part.id)
    if (known) {
      known.pico = pico
      return
    }
    const call = this.open.get(part.sessionID)
    this.open.delete(part.sessionID)
    call?.end()
    this.steps.set(part.id, { pico, bound: call?.bound })
  }
}

const costOf = (call) => usageBound(call.usage, call.price) ?? call.bound
