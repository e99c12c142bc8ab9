const response = await fetch(process.env.HERALD_API + "/send", {
  method: "POST",
  headers: { Authorization: "Bearer " + process.env.HERALD_KEY,
    "Content-Type": "application/json", "Idempotency-Key": "order-7-shipped-mjs" },
  body: JSON.stringify({ to: { users: ["42"] }, text: "mjs: your order is on its way" }),
  signal: AbortSignal.timeout(15_000),
});
console.log(await response.text());
if (!response.ok) process.exitCode = 1;
