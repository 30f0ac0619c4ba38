export default { test: { include: ["*.test.js"], environment: "node", watch: false } };
