{{/* A worker group, given {root, pool}: a pool of nodes that offer Ray resource `pool:NAME`. */}}
{{- define "galerne.workerGroup" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $settings := include "galerne.settings" $root | fromJson -}}
{{- $least := $pool.minReplicas | default 0 | int -}}
groupName: {{ $pool.name }}
replicas: {{ $least }}
minReplicas: {{ $least }}
maxReplicas: {{ include "galerne.maxPods" (dict "pool" $pool "settings" $settings) }}
{{- with $pool.idleTimeoutSeconds }}
idleTimeoutSeconds: {{ . }}
{{- end }}
rayStartParams:
  # Serve passes requests over HTTP: the object store only carries definitions of deployments.
  object-store-memory: "134217728"
  resources: {{ printf "'{\"pool:%s\": 1}'" $pool.name | toJson }}
template:
  metadata:
    labels:
      {{- include "galerne.podLabels" $root | nindent 6 }}
    annotations:
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      karpenter.sh/do-not-disrupt: "true"
  spec:
    {{- include "galerne.workerPod" (dict "root" $root "pool" $pool "settings" $settings) | trim | nindent 4 }}
{{- end }}

{{/*
Ends in three steps: the sleep lets the cluster notice that the pod leaves the service; on SIGTERM,
Ray drains the node, which lets Serve replace its replicas and these finish their streams
(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, longer than the 30 s that Serve adds to a drain); then it dies.
*/}}
{{- define "galerne.workerPod" -}}
{{- $drain := include "galerne.drainSeconds" .root | int -}}
{{- $hasGateways := eq (dig "gateway" "pool" "" .settings) .pool.name -}}
{{- if $hasGateways }}
serviceAccountName: {{ include "galerne.gatewayAccount" .root }}
{{- end }}
automountServiceAccountToken: {{ and $hasGateways .root.Values.rbac.nodeEvents }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add $drain 90 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "galerne.podSecurity" .root | nindent 2 }}
{{- with include "galerne.placement" .pool | trim }}
{{ . }}
{{- end }}
{{- with .pool.topologySpread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "galerne.podLabels" $.root | nindent 8 }}
        ray.io/group: {{ $.pool.name }}
{{- end }}
initContainers:
  - name: fetch-weights
    {{- include "galerne.imageFields" .root | nindent 4 }}
    command: [galerne, model, fetch, --settings, /etc/galerne/settings.json, --pool, {{ .pool.name | quote }}, --best-effort]
    terminationMessagePolicy: FallbackToLogsOnError
    securityContext:
      {{- include "galerne.containerSecurity" .root | nindent 6 }}
    env:
      {{- include "galerne.environment" .root | trim | nindent 6 }}
      {{- with include "galerne.weightsAccess" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
    {{- with include "galerne.storageCredentials" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    resources:
      requests: {cpu: "1", memory: 2Gi}
      limits: {cpu: "1", memory: 2Gi}
    volumeMounts:
      {{- include "galerne.mounts" .root | nindent 6 }}
      - name: models
        mountPath: /models
containers:
  - name: ray-worker
    {{- include "galerne.imageFields" .root | nindent 4 }}
    # These pods are replaced rather than restarted: the reason must be in their status.
    terminationMessagePolicy: FallbackToLogsOnError
    securityContext:
      {{- include "galerne.containerSecurity" .root | nindent 6 }}
    env:
      {{- include "galerne.environment" .root | trim | nindent 6 }}
      {{- with include "galerne.weightsAccess" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
        value: {{ add $drain 60 | quote }}
    {{- with include "galerne.storageCredentials" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    lifecycle:
      preStop:
        exec:
          command: [sleep, "10"]
    resources:
      {{- $resources := dict "cpu" (toString .pool.resources.cpu) "memory" .pool.resources.memory }}
      {{- if .pool.gpus }}
      {{- $_ := set $resources (.pool.gpuResource | default "nvidia.com/gpu") (toString .pool.gpus) }}
      {{- end }}
      requests:
        {{- toYaml $resources | nindent 8 }}
      limits:
        {{- toYaml $resources | nindent 8 }}
    volumeMounts:
      {{- include "galerne.mounts" .root | nindent 6 }}
      - name: models
        mountPath: /models
      {{- if .pool.shmSize }}
      - name: shm
        mountPath: /dev/shm
      {{- end }}
volumes:
  {{- include "galerne.volumes" .root | nindent 2 }}
  {{- include "galerne.weightsVolume" .root | nindent 2 }}
  {{- with .pool.shmSize }}
  # Without it KubeRay makes one as large as the pod's memory.
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ . }}
  {{- end }}
{{- end }}
